//! Sources of objects. Each brings the same [`Change`](crate::index::Change)s; the index does not know which one it was.
//!
//! [`files`] reads a folder of YAML, the embedded default. Both sources decode with [`decode`], as does the command line.

pub mod decode;
pub mod files;
