// One block at a time on one OS thread: made once per OS thread, used for all its blocks.
#pragma once
#include "state.h"

namespace emu {

Block* block_new();
// Runs block `index` (x fastest) of the launch; what went wrong is in `b->failure`.
void block_run(Block* b, const Launch& launch, uint64_t index);

}  // namespace emu
