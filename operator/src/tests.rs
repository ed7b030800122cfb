//! What unit tests of several rooms begin with.

use crate::{
    index::{Change, Index},
    intent::ServiceKey,
    watch::decode,
};

/// A Service `a/cart` of one ready pod; another object may follow.
pub(crate) const CART: &str = "apiVersion: v1
kind: Service
metadata: {name: cart, namespace: a}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: cart-1, namespace: a, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [127.0.1.1], targetRef: {kind: Pod, name: cart-0}}]
---
";

/// That Service.
pub(crate) fn cart() -> ServiceKey {
    ServiceKey { namespace: "a".to_owned(), name: "cart".to_owned() }
}

/// These objects, as they are applied.
pub(crate) fn changes(text: &str) -> Vec<Change> {
    let objects = decode::decode(text.as_bytes()).expect("readable").objects.into_iter();
    objects.map(|d| Change::Apply { key: d.key, origin: String::new(), object: d.object }).collect()
}

/// Applies these objects.
pub(crate) fn apply(index: &mut Index, text: &str) {
    for change in changes(text) {
        index.apply(change);
    }
}
