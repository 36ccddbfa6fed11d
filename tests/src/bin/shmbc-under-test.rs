//! The tool, as `shmbc-cli` has it: built together with the tests, which would otherwise meet an older one.

use std::process::ExitCode;

fn main() -> ExitCode {
    shmbc_cli::main()
}
