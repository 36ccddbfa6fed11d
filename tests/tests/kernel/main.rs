//! What the design takes for granted about the kernel, fact by fact, so that another kernel shows up as a red test with a name and
//! not as a mystery somewhere above. Nothing of SHMBC runs here but the doorbell's and the block's own makers.

mod doorbells;
mod hugetlb;
mod identity;
mod memory;
mod positions;
mod rights;
mod tcp;

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(role) = shmbc_tests::suite::role() {
        match role.as_str() {
            hugetlb::PUNCHED => hugetlb::touch_what_was_punched(),
            hugetlb::SEALED => hugetlb::touch_what_was_sealed(),
            rights::FEW_DESCRIPTORS => rights::few_descriptors(),
            identity::CONNECTOR => identity::connector(),
            other => panic!("no role {other:?} here"),
        }
        return ExitCode::SUCCESS;
    }
    let facts = [
        memory::facts(),
        hugetlb::facts(),
        doorbells::facts(),
        rights::facts(),
        identity::facts(),
        tcp::facts(),
        positions::facts(),
    ];
    shmbc_tests::suite(facts.into_iter().flatten().collect())
}
