/* From a request to a running command. */
#ifndef AK_START_H
#define AK_START_H

#include "payload.h"
#include "session.h"

/* STARTED, or the channel has failed. */
void prepare_and_start(struct channel *channel, struct exec_request *request);

#endif
