package main

import (
	"go/ast"
	"go/types"
	"path/filepath"
	"testing"

	"golang.org/x/tools/go/packages"
)

// TestOnlyMonotonicTime looks at all uses of package time in what the promises rest on. Differences and comparisons of instants that
// time.Now gave are made by the monotonic clock, which nobody can step; so is every timer. Whatever else can be done with
// an instant is of the wall clock, and none of it may occur.
func TestOnlyMonotonicTime(t *testing.T) {
	allowed := map[string]bool{
		"Now": true, "Since": true, "Until": true, "After": true, "AfterFunc": true, "NewTimer": true, "NewTicker": true, "Sleep": true,
	}
	allowedMethods := map[string]bool{"Sub": true, "Add": true, "Before": true, "After": true, "Compare": true, "IsZero": true}
	// rueidis's interfaces tell and are told the end of a reply's life by the wall clock. What may be served rests on Instants besides. And of two
	// bypasses that people ask for on two nodes the later one holds: no promise rests on which.
	inWallTime := map[string]string{"wrap.go": "UnixMilli", "wrap_store.go": "UnixMilli", "bypass.go": "UnixNano"}

	loaded, err := packages.Load(&packages.Config{
		Mode: packages.LoadSyntax,
	}, "github.com/go-nearcache/nearcache", "github.com/go-nearcache/nearcache/tracking", "github.com/go-nearcache/nearcache/localcache")
	if err != nil {
		t.Fatal(err)
	}
	uses := 0
	for _, p := range loaded {
		for _, err := range p.Errors {
			t.Fatal(err)
		}
		for _, file := range p.Syntax {
			ast.Inspect(file, func(node ast.Node) bool {
				name, ok := node.(*ast.Ident)
				if !ok {
					return true
				}
				function, ok := p.TypesInfo.Uses[name].(*types.Func)
				if !ok || function.Pkg() == nil || function.Pkg().Path() != "time" {
					return true
				}
				uses++
				receiver := function.Signature().Recv()
				position := p.Fset.Position(name.Pos())
				if name.Name == inWallTime[filepath.Base(position.Filename)] {
					return true
				}
				if receiver == nil && !allowed[name.Name] || receiver != nil && isTime(receiver.Type()) && !allowedMethods[name.Name] {
					t.Errorf("%v: time.%s depends on the wall clock", position, name.Name)
				}
				return true
			})
		}
	}
	if uses == 0 {
		t.Error("no use of time was found")
	}
}

func isTime(t types.Type) bool {
	if pointer, ok := t.(*types.Pointer); ok {
		t = pointer.Elem()
	}
	named, ok := t.(*types.Named)
	return ok && named.Obj().Name() == "Time"
}
