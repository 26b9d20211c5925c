//! Arithmetic shared by the CPU forms of the ops: vector loops compiled for several instruction
//! sets, elementary functions, matrix multiplication. Nothing here knows a tape or a shape rule.
