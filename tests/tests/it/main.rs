//! The one integration binary (linking it is what takes the time). A ring of tests is a module here:

mod tidy; // the repository itself: arrows between rooms, orphan modules, generated files, examples, documents
