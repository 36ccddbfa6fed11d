//! The service. See `shmbc-host --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    shmbc_host::cli::service::main()
}
