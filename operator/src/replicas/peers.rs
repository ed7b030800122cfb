//! Who decides without Kubernetes: of a list that all replicas share, the first that is alive.
//!
//! Nobody counts votes here, so two that cannot reach each other both decide, each for the proxies that it serves, from what it sees. The
//! promise is the other one: somebody always decides. Where that is not wanted, a list of one decides and the others only follow.

use std::time::{Duration, Instant};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{
    Meters,
    election::{HOLDS, RETRY},
    follower::probe,
    role::{Leader, Role, Standing},
};
use crate::identity::Link;

/// For whoever has led meanwhile to say so, and for its decisions to come.
const MEMORY: Duration = Duration::from_secs(3);

/// The list, and which of it we are.
#[derive(Clone, Debug)]
pub struct Peers {
    list: Vec<String>,
    own: usize,
}

impl Peers {
    /// Of addresses `host:port`, the first of which decides while it is alive. `None`: our own is not among them.
    #[must_use]
    pub fn new(list: Vec<String>, own: &str) -> Option<Self> {
        let own = list.iter().position(|one| one == own)?;
        Some(Self { list, own })
    }

    /// Our own address.
    #[must_use]
    pub fn own(&self) -> &str {
        &self.list[self.own]
    }

    pub(super) async fn run(
        self,
        standing: watch::Sender<Standing>,
        link: Link,
        meters: Meters,
        shutdown: CancellationToken,
    ) {
        shutdown.run_until_cancelled(self.watch(&standing, &link, &meters)).await;
    }

    async fn watch(&self, standing: &watch::Sender<Standing>, link: &Link, meters: &Meters) {
        let set = |role: Role| {
            standing.send_if_modified(|held| {
                let differs = std::mem::discriminant(&held.role) != std::mem::discriminant(&role)
                    || held.leader().map(|one| &one.address) != leader_of(&role);
                if differs {
                    match leader_of(&role) {
                        Some(leader) => info!(leader, "this replica follows"),
                        None => info!("this replica leads: it decides what metrics drive"),
                    }
                    held.role = role;
                }
                differs
            });
        };
        // Whoever has led meanwhile remembers more than we do, also if it comes later in the list. Our certificate is read
        // beside this: asked without one, nobody answers.
        let _ = timeout(MEMORY, link.ready()).await;
        let others = (0..self.list.len()).filter(|one| *one != self.own);
        if let Some(leader) = self.leading(others, link, MEMORY).await {
            set(follows(leader));
            let remembers = async {
                while meters.taken.get() == 0 {
                    sleep(RETRY / 20).await;
                }
            };
            let _ = timeout(MEMORY, remembers).await;
        }
        let mut alone_since = Instant::now();
        loop {
            match self.leading(0..self.own, link, RETRY).await {
                Some(leader) => {
                    set(follows(leader));
                    alone_since = Instant::now();
                }
                None if self.own == 0 || alone_since.elapsed() >= HOLDS => {
                    set(Role::Leading(Instant::now() + super::ALWAYS));
                }
                None => {}
            }
            sleep(RETRY).await;
        }
    }

    /// The first of these that leads. Each has so long to say so.
    async fn leading(&self, places: impl Iterator<Item = usize>, link: &Link, patience: Duration) -> Option<String> {
        for address in places.map(|place| &self.list[place]) {
            if matches!(timeout(patience, probe(link, address)).await, Ok(true)) {
                return Some(address.clone());
            }
        }
        None
    }
}

fn leader_of(role: &Role) -> Option<&String> {
    match role {
        Role::Following(leader) => leader.as_ref().map(|leader| &leader.address),
        Role::Leading(_) => None,
    }
}

fn follows(address: String) -> Role {
    Role::Following(Some(Leader { name: address.clone(), address }))
}

#[cfg(test)]
mod tests {
    use super::Peers;

    #[test]
    fn we_are_one_of_the_list() {
        let list = || vec!["a:1".to_owned(), "b:1".to_owned()];
        assert_eq!(Peers::new(list(), "b:1").unwrap().own(), "b:1");
        assert!(Peers::new(list(), "c:1").is_none());
    }
}
