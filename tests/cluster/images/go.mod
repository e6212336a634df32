module weir.dev/tests/cluster/images

go 1.24.0
