/* Disks that are attached after the start, found by serial number (PROTOCOL.md 3, MOUNT). */
#ifndef AK_DISKS_H
#define AK_DISKS_H

#include "payload.h"

#define DISK_WHAT_BYTES 512u

/* 0, or an errno with `what` saying what failed. */
int disk_mount(const struct mount_request *request, char what[DISK_WHAT_BYTES]);
/* Before power goes: take them off, or make them clean. */
void disks_release(void);

#endif
