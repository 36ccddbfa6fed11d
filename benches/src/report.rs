//! What is printed: JSON lines for programs; tables, goals and the machine for people.

mod goals;
pub(crate) mod json;
mod machine;
pub(crate) mod people;
