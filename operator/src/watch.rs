//! Sources of objects. Each brings the same [`Change`]s; the index does not know which one it was.
//!
//! [`files`] reads a folder of YAML, the embedded default; [`kubernetes`] watches an API server. Both decode with [`decode`], as
//! does the command line. [`live`] holds what else an API server says of our own objects, for who writes their status.

pub mod decode;
pub mod files;
pub mod kubernetes;
pub mod live;

use std::time::Duration;

use crate::index::Change;

/// Quiet to wait for after something moved, so that what belongs together is built once.
const QUIET: Duration = Duration::from_millis(2);
/// The longest wait while things go on moving.
const LONGEST_WAIT: Duration = Duration::from_millis(20);

/// What a source says: changes that belong together.
#[derive(Debug)]
pub struct Batch {
    /// In the order in which they must be applied.
    pub changes: Vec<Change>,
    /// The first look at everything is complete with this batch.
    pub initial: bool,
}
