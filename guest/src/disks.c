#include "disks.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "paths.h"
#include "place.h"
#include "tar.h"

#define DISKS_MOST 8
#define SERIAL_BYTES 64
#define DISK_PLACE_BYTES 96
#define MOUNTED_DIRECTORY "/.agentkernel/disks"
/* Only root may pass: what is bound from here is all that commands see of a disk. */
#define DISKS_DIRECTORY "/run/agentkernel-disks"

struct disk {
    char serial[SERIAL_BYTES];
    char place[DISK_PLACE_BYTES];
};

static struct disk disks[DISKS_MOST];
static int disk_count;

static int fail(char what[DISK_WHAT_BYTES], int error, const char *step, const char *name)
{
    snprintf(what, DISK_WHAT_BYTES, "%s: %.400s", step, name);
    return error;
}

static bool find_device(const char *serial, char device[64])
{
    DIR *directory = opendir("/sys/block");
    struct dirent *entry;
    bool found = false;
    if (!directory)
        return false;
    while (!found && (entry = readdir(directory))) {
        char path[300];
        char text[SERIAL_BYTES];
        snprintf(path, sizeof path, "/sys/block/%s/serial", entry->d_name);
        size_t length = file_load(path, text, sizeof text - 1);
        text[length] = 0;
        text[strcspn(text, "\n")] = 0;
        found = length > 0 && strcmp(text, serial) == 0;
        if (found)
            snprintf(device, 64, "/dev/%.32s", entry->d_name);
    }
    closedir(directory);
    return found;
}

static struct disk *known(const char *serial)
{
    for (int i = 0; i < disk_count; i++)
        if (strcmp(disks[i].serial, serial) == 0)
            return &disks[i];
    return NULL;
}

/* In gVisor there are no devices: what starts a sandbox has mounted its disks before us. */
static bool find_mounted(const char *serial, char place[DISK_PLACE_BYTES])
{
    struct stat st;
    snprintf(place, DISK_PLACE_BYTES, MOUNTED_DIRECTORY "/%.64s", serial);
    return !strchr(serial, '/') && serial[0] != '.' && lstat(place, &st) == 0 && S_ISDIR(st.st_mode);
}

/* The device is mounted once, however often it is asked for. */
static int attach(const struct mount_request *request, struct disk **disk, char what[DISK_WHAT_BYTES])
{
    char device[64];
    *disk = known(request->serial);
    if (*disk)
        return 0;
    if (disk_count == DISKS_MOST)
        return fail(what, ENOSPC, "device", request->serial);
    if (strlen(request->serial) >= SERIAL_BYTES || request->serial[0] == 0)
        return fail(what, ENODEV, "device", request->serial);
    struct disk *new = &disks[disk_count];
    if (!place.machine && find_mounted(request->serial, new->place)) {
        snprintf(new->serial, sizeof new->serial, "%s", request->serial);
        disk_count++;
        *disk = new;
        return 0;
    }
    if (!find_device(request->serial, device))
        return fail(what, ENODEV, "device", request->serial);
    snprintf(new->serial, sizeof new->serial, "%s", request->serial);
    snprintf(new->place, sizeof new->place, DISKS_DIRECTORY "/%d", disk_count);
    mkdir(DISKS_DIRECTORY, 0700);
    mkdir(new->place, 0700);
    if (mount(device, new->place, request->filesystem, MS_NOSUID | MS_NODEV | MS_NOATIME, NULL) != 0)
        return fail(what, errno, "mount", device);
    disk_count++;
    *disk = new;
    return 0;
}

/* By descriptor, so that a link that a command put into the disk can not redirect the bind. */
static int bind(int directory, const char *target)
{
    char from[48];
    int error = make_directories(target, 0755, 0, 0);
    if (error != 0)
        return error;
    snprintf(from, sizeof from, "/proc/self/fd/%d", directory);
    return mount(from, target, NULL, MS_BIND, NULL) == 0 ? 0 : errno;
}

static int bind_pair(const struct disk *disk, char *pair, uint32_t owner, char what[DISK_WHAT_BYTES])
{
    char *colon = strchr(pair, ':');
    if (!colon || colon[1] != '/')
        return fail(what, EINVAL, "pair", pair);
    *colon = 0;
    char *relative = tar_clean_path(pair);
    if (!relative)
        return fail(what, EINVAL, "directory", pair);
    int root = open(disk->place, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int directory = root < 0 ? -1 : open_beneath(root, relative, true, owner, owner);
    int error = directory < 0 ? errno : 0;
    if (root >= 0)
        close(root);
    if (error != 0)
        return fail(what, error, "directory", relative);
    error = bind(directory, colon + 1);
    close(directory);
    return error == 0 ? 0 : fail(what, error, "target", colon + 1);
}

int disk_mount(const struct mount_request *request, char what[DISK_WHAT_BYTES])
{
    struct disk *disk;
    int error = attach(request, &disk, what);
    for (uint32_t i = 0; error == 0 && i < request->count; i++)
        error = bind_pair(disk, request->pairs[i], request->owner, what);
    return error;
}

void disks_release(void)
{
    for (int i = 0; i < disk_count; i++)
        /* The binds keep the file system busy, and a read-only one is clean as well. */
        if (mount(NULL, disks[i].place, NULL, MS_REMOUNT | MS_RDONLY, NULL) != 0)
            say("agent: a disk could not be made read-only before the end");
}
