//! The tool. See `shmbc --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    shmbc_cli::main()
}
