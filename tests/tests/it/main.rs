//! The one integration binary (linking it is what takes the time). A ring of tests is a module here:

#![allow(clippy::unwrap_used, reason = "everything here runs in a test")]

mod arms; // what real Envoys tell of how the arms of a split answer, and what counts as a failure
mod ask; // explain --at, status --watch: numbers that are supposed, a Weir that comes and goes
mod calls; // what real Envoys tell of calls: which destinations are used, which hosts nothing is known of
mod cli; // what a person types: help, exit codes, the words of every mistake, SIGTERM
mod demo; // the demonstrations as a person runs them: verdict, Ctrl-C, mistakes
mod ecds; // beside another control plane: its listener, our limits
mod edge; // limits on the way there: at callers and at gateways
mod envoy; // limits on real Envoys: the article, matches, clients, restarts, refusals, moving pods
mod files; // the folder: half-written, deleted, renamed, wrong; the last good form stays in force
mod first_calls; // of proxies that start with nothing: HTTP/2, gRPC, large bodies, answers that take their time
mod intercept; // what applications send anywhere, handed to their proxies by iptables
mod kubernetes; // on a real API server: definitions, watches, status, installation
mod lazy; // proxies that start with nothing: first calls, forgetting, learning, a Weir that is away
mod lazy_replicas; // the same with two Weirs: one ends, and what proxies have is known to the other
mod metrics; // pages that hang, lie, end, never end: limits hold and status says why
mod peers; // two Weirs without Kubernetes: the first of a list that is alive decides
mod prometheus; // a real Prometheus: values, mistakes, age, and what happens while it is gone
mod restart; // what a restart keeps: limits in force, releases; damaged, locked and full folders
mod simulate; // rules played against the queueing model
mod sotw; // state of the world: a real Envoy takes, refuses, comes back
mod split_replicas; // two Weirs steer a split: one decides by what the proxies of both tell, and ends
mod splits; // requests shared out among versions: realised shares, what steers them, connections, lazy callers
mod stream; // the whole process seen by a delta client: order, ACK, NACK, reconnect, floods
mod tenants; // what objects of a namespace may do beyond it: PromQL, limits at callers
mod tidy; // the repository itself: arrows between rooms, orphan modules, generated files, examples, documents
mod traces; // OpenTelemetry: from a decision to the answer of a proxy; a collector that is away
mod trust; // who a proxy is, without Kubernetes
