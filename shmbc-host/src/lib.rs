//! The host service.
