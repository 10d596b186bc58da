package data

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAirports(t *testing.T) {
	airports := Airports()
	if len(airports) != 913 {
		t.Errorf("%d airports, want the 913 of SOURCE.md", len(airports))
	}
	if !slices.IsSortedFunc(airports, func(a, b Airport) int { return strings.Compare(a.IATA, b.IATA) }) {
		t.Error("not sorted by IATA code")
	}
	seen := make(map[string]bool)
	for _, a := range airports {
		if seen[a.IATA] {
			t.Errorf("%s is there twice", a.IATA)
		}
		seen[a.IATA] = true
		if len(a.IATA) != 3 || len(a.ICAO) != 4 || len(a.Country) != 2 || a.Name == "" || a.City == "" || a.TimeZone == "" {
			t.Errorf("incomplete record: %+v", a)
		}
		if a.Latitude < -90 || a.Latitude > 90 || a.Longitude < -180 || a.Longitude > 180 {
			t.Errorf("nowhere on Earth: %+v", a)
		}
	}
}

func TestParseErrors(t *testing.T) {
	const header = "iata,icao,name,city,subd,country,elevation,lat,lon,tz\n"
	for name, csv := range map[string]string{
		"empty":          "",
		"fields missing": header + "VIE,LOWW\n",
		"not a number":   header + "VIE,LOWW,Vienna International Airport,Vienna,,AT,high,48.11,16.57,Europe/Vienna\n",
	} {
		if _, err := parse(strings.NewReader(csv)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestDatabaseTakesItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := NewDatabase(80 * time.Millisecond)
		start := time.Now()
		if _, err := db.Airport(t.Context(), "JFK"); err != nil {
			t.Fatal(err)
		}
		if _, err := db.Airports(t.Context(), []string{"JFK", "SIN", "NRT"}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != 160*time.Millisecond {
			t.Errorf("two queries took %v, want 160ms", took)
		}

		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if _, err := db.Airport(ctx, "JFK"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("query beyond its deadline = %v, want DeadlineExceeded", err)
		}
		if got := db.Queries(); got != 3 {
			t.Errorf("%d queries, want 3", got)
		}
	})
}

func TestDatabase(t *testing.T) {
	db := NewDatabase(0)
	if _, err := db.Airport(t.Context(), "???"); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown airport = %v, want ErrNotFound", err)
	}
	many, err := db.Airports(t.Context(), []string{"JFK", "???"})
	if err != nil || len(many) != 1 || many["JFK"].City != "New York" {
		t.Errorf("many = %v, %v; want JFK alone", many, err)
	}

	jfk := many["JFK"]
	jfk.Name = "Idlewild"
	if err := db.Update(t.Context(), jfk); err != nil {
		t.Fatal(err)
	}
	if got, err := db.Airport(t.Context(), "JFK"); err != nil || got.Name != "Idlewild" {
		t.Errorf("after the update = %+v, %v", got, err)
	}
	if fresh := Airports(); fresh[slices.IndexFunc(fresh, func(a Airport) bool { return a.IATA == "JFK" })].Name == "Idlewild" {
		t.Error("an update reached the data set itself")
	}

	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, err := range map[string]error{
		"query":      func() error { _, err := db.Airport(cancelled, "JFK"); return err }(),
		"query many": func() error { _, err := db.Airports(cancelled, []string{"JFK"}); return err }(),
		"update":     db.Update(cancelled, jfk),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s after cancellation = %v, want Canceled", name, err)
		}
	}
}

func ExampleDatabase() {
	db := NewDatabase(5 * time.Millisecond)
	airport, err := db.Airport(context.Background(), "SIN")
	fmt.Println(airport.Name, airport.City, err)
	// Output: Singapore Changi International Airport Singapore <nil>
}
