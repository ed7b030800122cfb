//! Splits: how the requests for a Service are shared out among others, and how that follows what those do.
//!
//! Values only: `shares` puts weights into whole numbers, `steer` moves them. No object leads here yet.

pub mod shares;
pub mod steer;
