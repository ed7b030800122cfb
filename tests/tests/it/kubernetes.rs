//! On a real Kubernetes control plane: etcd, kube-apiserver with RBAC, kube-controller-manager.

mod admission; // the webhook: what kubectl is told, and its certificate
mod charts; // what the charts render, from every combination of values
mod definitions; // the custom resource definitions: accepted, explained, refusing, pruning nothing
mod endurance; // a clock that jumps, an API server that is away for minutes, while a limit is in force
mod faults; // servers end, hang, come back and forget
mod flagger; // Flagger moves weights: by SMI's TrafficSplit and by Gateway API's HTTPRoute
mod identity; // who a proxy is, and who Weir is
mod inject; // sidecars: the webhook, interception, probes, and an end that loses nothing
mod install; // both charts from installation to removal, and the rights that Weir needs
mod kit; // the kit itself: what the other tests take for granted
mod lazy; // LazyConfig and WorkloadScope: the schema, what the status of the former says, first calls
mod metrics; // the metrics API: what pods use drives limits, and its failures are said
mod node; // pods that run: Deployments, Jobs, Services, volumes
mod pods; // pods as objects, with processes and Envoys at their addresses
mod replicas; // two Weirs: one decides, either may end
mod routes; // what becomes of routes of Services, beside what other controllers say of them
mod scopes;
mod splits; // what workloads call outlives Weir
mod status; // what a person reads with kubectl, and that nothing is written without a cause
mod tenants; // objects of one namespace try to reach over to another
mod watch; // an API server as the source of objects: what it gives, refuses, forgets and brings back
