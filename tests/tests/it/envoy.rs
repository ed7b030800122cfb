//! Limits on real Envoys, from the folder of YAML to the 429.

mod adapt;
mod classes; // priority classes, and rules in shadow mode
mod lifecycle; // what must not happen: closed connections, refilled buckets, re-sent configuration
mod limits; // what is limited: the article, matches, clients, gRPC, several rules
mod pause; // the kill switch, under load
mod queue; // the bound of requests in flight, and the layer that carries it
mod refusal; // a proxy that says no, beside one that does not
mod streams; // what Envoy streams: rules on requests, errors and latency
mod told; // what a refused request is told
