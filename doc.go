package nearcache
