#pragma once

/* Says how the kernel holds this process, for whoever started it, one fact a line: what its status says, what calls are answered that no program of a sandbox
 * may make, and what there is at each of the paths. Changes nothing, whatever the answers are. */
int confinement_report(char *const *paths);
