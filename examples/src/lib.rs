//! Nothing here: the examples stand in directories of their own.
