//! Where Weir listens for proxies: an address, or a Unix socket, which nobody reaches from another machine.

use std::{
    fmt, io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    str::FromStr,
};

use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio_util::either::Either;

/// Connections that may wait to be accepted. All proxies connect again within half a second of a restart, and tokio's own
/// bound is 128: of 1,000 proxies most would wait a second for their next try, or find their connection reset.
const BACKLOG: u32 = 4_096;
/// Whoever has Weir's user or group may connect.
const MODE: u32 = 0o660;
/// The longest path of a socket (`sun_path`), without its end and what it is called while it is made.
const LONGEST_PATH: usize = 104;

/// Bytes to and from a peer.
pub(super) type Socket = Either<TcpStream, UnixStream>;

/// Where to listen: `ADDRESS:PORT`, or `unix:/path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// An address of this machine.
    Address(SocketAddr),
    /// A Unix socket of this path.
    Unix(PathBuf),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("unix:") {
            Some(path) => socket_path(path).map(Self::Unix),
            None => text.parse().map(Self::Address).map_err(|_| {
                "expected ADDRESS:PORT, such as 127.0.0.1:18000, or unix:/PATH, such as unix:/run/weir/xds.sock"
                    .to_owned()
            }),
        }
    }
}

/// The path of a Unix socket, as the system takes it.
///
/// # Errors
///
/// What is wrong with it.
pub fn socket_path(path: &str) -> Result<PathBuf, String> {
    if !path.starts_with('/') || path.ends_with('/') {
        return Err(format!("expected the whole path of a socket, such as unix:/run/weir/xds.sock, found {path:?}"));
    }
    if path.len() > LONGEST_PATH {
        return Err(format!("the path of a socket has at most {LONGEST_PATH} bytes, found {}", path.len()));
    }
    Ok(path.into())
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Listen {
    /// Whether nobody reaches it from another machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Address(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// Listens, ready for every proxy at once.
    ///
    /// # Errors
    ///
    /// The address is taken or not of this machine; at the path of the socket somebody listens, or stands something else.
    pub fn bind(&self) -> io::Result<Listener> {
        match self {
            Self::Address(address) => bind(*address).map(Listener::Tcp),
            Self::Unix(path) => bind_socket(path),
        }
    }
}

/// Listens on `address`, ready for every proxy at once.
///
/// # Errors
///
/// The address is taken or not of this machine.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // As tokio does when it binds: a restart need not wait for the connections of the process before.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn bind_socket(path: &Path) -> io::Result<Listener> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something else than a socket stands there"));
        }
        // A Weir that was killed leaves its socket, at which nobody listens.
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there"));
        }
        _ => {}
    }
    // It is there with its rights, and in place of the one before, or not at all.
    let made = PathBuf::from(format!("{}~", path.display()));
    let _ = std::fs::remove_file(&made);
    let listener = UnixListener::bind(&made)?;
    std::fs::set_permissions(&made, std::fs::Permissions::from_mode(MODE))?;
    let inode = std::fs::symlink_metadata(&made)?.ino();
    std::fs::rename(&made, path)?;
    Ok(Listener::Unix(listener, Left { path: path.to_owned(), inode }))
}

/// Where somebody listens.
#[derive(Debug)]
pub enum Listener {
    /// At an address.
    Tcp(TcpListener),
    /// At a Unix socket, which is removed with this.
    Unix(UnixListener, Left),
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => address.fmt(f),
                Err(_) => f.write_str("an unknown address"),
            },
            Self::Unix(_, left) => write!(f, "unix:{}", left.path.display()),
        }
    }
}

impl Listener {
    /// The next connection, and where it comes from: at a Unix socket nobody knows.
    pub(super) async fn accept(&self) -> io::Result<(Socket, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Small messages must not wait for an acknowledgement of earlier ones.
                let _ = stream.set_nodelay(true);
                Ok((Either::Left(stream), Some(address)))
            }
            Self::Unix(listener, _) => Ok((Either::Right(listener.accept().await?.0), None)),
        }
    }
}

/// A socket's file, removed when dropped.
#[derive(Debug)]
pub struct Left {
    path: PathBuf,
    inode: u64,
}

impl Drop for Left {
    fn drop(&mut self) {
        // Another Weir's may stand there by now.
        if std::fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_addresses_and_paths() {
        assert_eq!("127.0.0.1:18000".parse(), Ok(Listen::Address(([127, 0, 0, 1], 18000).into())));
        let socket = "unix:/run/weir/xds.sock".parse::<Listen>().expect("a path");
        assert!(socket.is_local() && socket.to_string() == "unix:/run/weir/xds.sock");
        assert!(!"0.0.0.0:1".parse::<Listen>().expect("an address").is_local());
        let long = format!("unix:/{}", "a".repeat(200));
        for bad in ["", "weir:18000", "unix:", "unix:weir.sock", "unix:/run/", "/run/weir.sock", &long] {
            let said = bad.parse::<Listen>().expect_err(bad);
            assert!(said.contains("unix:/") || said.contains("at most 104 bytes"), "{bad}: {said}");
        }
    }

    #[tokio::test]
    async fn a_socket_is_taken_over_only_from_the_dead() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("xds.sock");
        let listen = Listen::Unix(path.clone());
        let first = listen.bind().expect("it is free");
        assert_eq!(std::fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, MODE);
        assert_eq!(listen.bind().expect_err("somebody listens").kind(), io::ErrorKind::AddrInUse);
        // As a process leaves it that was killed.
        let Listener::Unix(listener, left) = first else { panic!("a socket") };
        drop(listener);
        let second = listen.bind().expect("nobody listens");
        drop(left);
        assert!(path.exists(), "that of another is left alone");
        drop(second);
        assert_eq!(std::fs::read_dir(folder.path()).expect("it can be read").count(), 0);
        std::fs::write(&path, "precious").expect("it can be written");
        assert_eq!(listen.bind().expect_err("a file").kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&path).expect("it is there"), "precious");
    }
}
