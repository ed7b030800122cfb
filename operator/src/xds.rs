//! The xDS server: intent to Envoy resources, one mesh-wide table of them, and delta ADS streams that see their part.

// Contract used by `app` and by the tests (the xds room may add to it):
//
// resources::build(&ServiceKey, &ServiceIntent) -> Vec<resources::Resource>      pure; one per pod: listener, route
//                                                                                configuration, cluster, load assignment
// resources::build_pod(..) exists so that a change of numbers re-encodes only route configurations
// table::Table::new() -> Table;   cheap to clone (Arc inside); one writer
// table.replace(&ServiceKey, Vec<Resource>) -> table::Changed {resources: usize, nodes: usize}   diffs, wakes affected streams
// table.remove(&ServiceKey) -> Changed
// proxies::Proxies: what connected proxies said: for a node -> connected, acked version by (type, name), refusals
// server::serve(table, proxies, listener, shutdown) -> runs the tonic server
// node::NodeKey {namespace, service, pod} parsed from the node's id "<namespace>/<service>/<pod>"
// bootstrap::bootstrap(&bootstrap::Options) -> serde_json::Value
