//! What is printed and written: JSON lines for programs; tables, goals, pictures and the machine for people.

pub(crate) mod files;
mod goals;
pub(crate) mod json;
pub(crate) mod machine;
pub(crate) mod people;
mod plots;
mod tables;
