module github.com/go-nearcache/nearcache/examples

go 1.26.0
