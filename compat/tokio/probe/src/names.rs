//! Every public name of tokio, one `use` each: `check` writes this file anew from tokio's own documentation.
