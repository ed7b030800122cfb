// No program of it is built: scripts/install-control-plane copies its custom resource definitions. `go mod tidy` would take the
// requirement away; `go mod edit -require` and `go mod download` change it.
module weir.dev/tests/tools/gateway-api

go 1.26.0

require sigs.k8s.io/gateway-api v1.5.1
