/* The numbers of PROTOCOL.md, generation 1. */
#ifndef AK_KINDS_H
#define AK_KINDS_H

#define GENERATION 1u
#define EPOCH_BYTES 16u
#define TAG_BYTES 4u
#define RECORD_BYTES 32u
#define HEADER_BYTES 16u
#define PAYLOAD_MOST 65536u
#define WINDOW_BYTES 262144u
#define CHANNELS_MOST 64u
#define PARTS_OF_ONE_MOST (2u << 20)
#define PARTS_OF_ALL_MOST (4u << 20)
#define ENTRIES_MOST 65536u
#define RING_BYTES 65536u
#define ENTROPY_BYTES 32u
#define MACHINE_ID_BYTES 16u

enum kind {
    HELLO = 1,
    REFRESH = 2,
    QUIESCE = 3,
    RESUME = 4,
    PING = 5,
    SHUTDOWN = 6,
    MOUNT = 7,
    PART = 15,
    EXEC = 16,
    STDIN = 17,
    STDIN_END = 18,
    SIGNAL = 19,
    RESIZE = 20,
    KILL = 21,
    CREDIT = 22,
    READ = 32,
    WRITE = 33,
    TAR_IN = 34,
    STAT = 35,
    LIST = 36,
    MKDIR = 37,
    REMOVE = 38,
    RENAME = 39,
    DATA = 48,
    END = 49,
    CANCEL = 50,
    WELCOME = 65,
    REFRESHED = 66,
    QUIESCED = 67,
    PONG = 69,
    ENDING = 70,
    MOUNTED = 71,
    STARTED = 80,
    STDOUT = 81,
    STDERR = 82,
    EXIT = 83,
    FAILED = 84,
    CREDIT_BACK = 86,
    DATA_BACK = 96,
    ENTRIES = 97,
    DONE = 98,
};

enum { EXEC_STDIN = 1, EXEC_TERMINAL = 2, EXEC_MAKE_CWD = 4 };
enum { WRITE_ATOMIC = 1, WRITE_APPEND = 2, WRITE_PARENTS = 4, WRITE_NEW = 8 };
enum { MKDIR_PARENTS = 1, REMOVE_TREE = 1 };

#endif
