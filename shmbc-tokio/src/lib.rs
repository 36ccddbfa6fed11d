//! The types people use.
