//! On a real Kubernetes control plane: etcd, kube-apiserver with RBAC, kube-controller-manager.

mod definitions; // the custom resource definitions: accepted, explained, refusing, pruning nothing
mod kit; // the kit itself: what the other tests take for granted
mod metrics; // the metrics API: what pods use drives limits, and its failures are said
