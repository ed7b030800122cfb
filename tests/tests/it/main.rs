//! The one integration binary (linking it is what takes the time). A ring of tests is a module here:

#![allow(clippy::unwrap_used, reason = "everything here runs in a test")]

mod tidy; // the repository itself: arrows between rooms, orphan modules, generated files, examples, documents
