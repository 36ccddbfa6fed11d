//! What every accepting side does about errors.

use std::io;

/// Whether an error of accepting is about a connection that ended before it was accepted, which says nothing about the
/// next one.
pub(crate) fn of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}
