//! The tool, as `shmbc-host` has it: built together with the tests, which would otherwise meet an older one.

use std::process::ExitCode;

fn main() -> ExitCode {
    shmbc_host::cli::tool::main()
}
