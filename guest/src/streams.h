/* A command's streams: output as far as its window goes, input as far as the program takes it. */
#ifndef AK_STREAMS_H
#define AK_STREAMS_H

#include "link.h"
#include "run.h"

void output_ready(struct source *source, uint32_t events);
void input_ready(struct source *source, uint32_t events);
/* How much of this output may go to the host now. */
size_t may_send(const struct output *output);
void take_input(struct run *run, const struct frame *frame);
/* What is held counts as taken. */
void end_input(struct run *run);

#endif
