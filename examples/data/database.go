package data

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrNotFound says that the database has no such airport.
var ErrNotFound = errors.New("data: no such airport")

// Database stands for the slow database behind a cache. It may be used from any goroutine.
type Database struct {
	latency time.Duration

	mu       sync.RWMutex
	airports map[string]Airport
	queries  int64
}

// NewDatabase makes a database of all airports in which every query and every update takes latency.
func NewDatabase(latency time.Duration) *Database {
	db := &Database{latency: latency, airports: make(map[string]Airport)}
	for _, airport := range Airports() {
		db.airports[airport.IATA] = airport
	}
	return db
}

// Airport queries one record by its IATA code. It fails with [ErrNotFound], or with ctx's error if that ends first.
func (db *Database) Airport(ctx context.Context, iata string) (Airport, error) {
	if err := db.query(ctx); err != nil {
		return Airport{}, err
	}
	db.mu.RLock()
	defer db.mu.RUnlock()
	airport, ok := db.airports[iata]
	if !ok {
		return Airport{}, fmt.Errorf("%w: %q", ErrNotFound, iata)
	}
	return airport, nil
}

// Airports queries many records at once, for the time of one query. Codes that the database does not have are left out.
func (db *Database) Airports(ctx context.Context, iata []string) (map[string]Airport, error) {
	if err := db.query(ctx); err != nil {
		return nil, err
	}
	db.mu.RLock()
	defer db.mu.RUnlock()
	found := make(map[string]Airport, len(iata))
	for _, code := range iata {
		if airport, ok := db.airports[code]; ok {
			found[code] = airport
		}
	}
	return found, nil
}

// Update stores a record under its IATA code.
func (db *Database) Update(ctx context.Context, airport Airport) error {
	if err := db.wait(ctx); err != nil {
		return err
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	db.airports[airport.IATA] = airport
	return nil
}

// Queries is how many queries were begun.
func (db *Database) Queries() int64 {
	db.mu.RLock()
	defer db.mu.RUnlock()
	return db.queries
}

func (db *Database) query(ctx context.Context) error {
	db.mu.Lock()
	db.queries++
	db.mu.Unlock()
	return db.wait(ctx)
}

func (db *Database) wait(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	timer := time.NewTimer(db.latency)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
