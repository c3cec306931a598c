module edge-bench

go 1.26.0
