//! Limits on real Envoys, from the folder of YAML to the 429.

mod lifecycle; // what must not happen: closed connections, refilled buckets, re-sent configuration
mod limits; // what is limited: the article, matches, clients, gRPC, several rules
mod queue; // the bound of requests in flight, and the layer that carries it
mod refusal; // a proxy that says no, beside one that does not
