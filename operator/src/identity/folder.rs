//! A certificate that somebody else makes and renews: files, such as a mounted Secret of cert-manager's.

use std::{path::Path, time::Duration};

use jiff::Timestamp;
use tracing::warn;

use super::{
    Held,
    certificate::{self, Pem, Unusable},
};

/// How often the files are read. Whoever renews them does so days before it matters.
const LOOK: Duration = Duration::from_secs(5);

/// Serves what is in the folder now, for ever.
pub(super) async fn follow(folder: &Path, held: Held) {
    let mut said = None;
    loop {
        let trouble = look(folder, &held).await.err();
        if trouble != said
            && let Some(error) = &trouble
        {
            let folder = folder.display();
            warn!(%folder, %error, "Weir's certificate cannot be used; put tls.crt and tls.key there, as PEM");
        }
        said = trouble;
        tokio::time::sleep(LOOK).await;
    }
}

async fn look(folder: &Path, held: &Held) -> Result<(), Unusable> {
    let read =
        async |name: &str| tokio::fs::read_to_string(folder.join(name)).await.map_err(|e| format!("{name}: {e}"));
    let pem = Pem {
        certificate: read("tls.crt").await.map_err(Unusable::Certificate)?,
        key: read("tls.key").await.map_err(Unusable::Key)?,
        // What cert-manager puts beside; other makers do not.
        authorities: tokio::fs::read_to_string(folder.join("ca.crt")).await.unwrap_or_default(),
    };
    if held.get().is_some_and(|held| held.pem == pem) {
        return Ok(());
    }
    let new = certificate::read(pem)?;
    if new.until < Timestamp::now() {
        warn!(until = %new.until, "Weir's certificate has expired: renew it");
    }
    held.set(new);
    Ok(())
}
