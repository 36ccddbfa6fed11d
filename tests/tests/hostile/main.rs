//! The peer is hostile: a process that was granted a connection like any other, and then writes garbage into every word of the
//! block, abuses every descriptor it was given, lies about the switch, and throws garbage at the host service.
//!
//! What must hold each time: an error on that connection and nowhere else. Nobody panics, hangs or blocks in a system call; the
//! victim's next connection is fine; an honest pair beside it moves every byte once and in order all the time; and when the
//! hostile process is gone nothing of it is left in the host service.

mod assaults;
mod attacker;
mod descriptors;
mod garbage;
mod lies;
mod orders;
mod scene;
mod scribbles;
mod striker;
mod thrower;
mod traced;

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(role) = shmbc_tests::suite::role() {
        assert_eq!(role, orders::ROLE, "the only role here");
        attacker::obey();
        return ExitCode::SUCCESS;
    }
    let tests = [scribbles::tests(), descriptors::tests(), lies::tests(), garbage::tests()];
    shmbc_tests::suite(tests.into_iter().flatten().collect())
}
