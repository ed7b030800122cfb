//! What a proxy has mounted to trust Weir and to prove who it is, renewed as kubelet renews it.

use std::path::{Path, PathBuf};

use operator::xds::bootstrap::{Credential, Trust};
use tempfile::TempDir;

use crate::temp_dir;

/// A folder with `ca.crt` and `token`, removed when dropped.
#[derive(Debug)]
pub struct Mount {
    files: TempDir,
    secrets: TempDir,
}

impl Mount {
    /// With these texts.
    #[must_use]
    pub fn new(authorities: &str, token: &str) -> Self {
        let mount = Self { files: temp_dir(), secrets: temp_dir() };
        mount.put("ca.crt", authorities);
        mount.put("token", token);
        mount
    }

    /// Replaces a file in one step.
    ///
    /// # Panics
    ///
    /// When the folder cannot be written.
    pub fn put(&self, name: &str, text: &str) {
        let new = self.files.path().join(format!(".{name}"));
        std::fs::write(&new, text).expect("the folder can be written");
        std::fs::rename(new, self.path(name)).expect("a file can take another's place");
    }

    /// Takes a file away.
    ///
    /// # Panics
    ///
    /// When it is not there.
    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.path(name)).expect("it is there");
    }

    /// Where a file is.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// How a proxy uses them.
    #[must_use]
    pub fn trust(&self, server_name: &str) -> Trust {
        self.trust_by(server_name, Credential::Token(self.path("token")))
    }

    /// The same with `tls.crt` and `tls.key` instead of the token.
    #[must_use]
    pub fn trust_by_certificate(&self, server_name: &str) -> Trust {
        let credential = Credential::Certificate { certificate: self.path("tls.crt"), key: self.path("tls.key") };
        self.trust_by(server_name, credential)
    }

    fn trust_by(&self, server_name: &str, credential: Credential) -> Trust {
        let secrets_folder = Path::to_owned(self.secrets.path());
        Trust { server_name: server_name.to_owned(), ca_file: self.path("ca.crt"), credential, secrets_folder }
    }
}
