//! What is kept of a token: enough to know it again, and nothing that could be used.

use ring::digest::{SHA256, SHA256_OUTPUT_LEN};

/// SHA-256.
pub(super) type Digest = [u8; SHA256_OUTPUT_LEN];

pub(super) fn digest(token: &str) -> Digest {
    let mut kept = [0; SHA256_OUTPUT_LEN];
    kept.copy_from_slice(ring::digest::digest(&SHA256, token.as_bytes()).as_ref());
    kept
}
