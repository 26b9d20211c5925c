//! Floor 9: runs as they lie on disk: which there are, in which state, how they compare. Trains nothing.
