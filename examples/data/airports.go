// Package data is what the examples keep in their database: real airports, and a database that answers as slowly as asked.
//
// SOURCE.md says where the records come from and under which licence.
package data

import (
	_ "embed"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

//go:embed airports.csv
var airportsCSV string

// Airport is one record. Its JSON form is what the examples' caches keep in Redis.
type Airport struct {
	IATA      string  `json:"iata"` // three letters, the key
	ICAO      string  `json:"icao"` // four letters
	Name      string  `json:"name"`
	City      string  `json:"city"`
	Region    string  `json:"region"`    // state, province or the like
	Country   string  `json:"country"`   // ISO 3166-1, two letters
	Elevation float64 `json:"elevation"` // feet above sea level
	Latitude  float64 `json:"latitude"`  // degrees north
	Longitude float64 `json:"longitude"` // degrees east
	TimeZone  string  `json:"timeZone"`  // IANA name, such as Europe/Vienna
}

// Airports returns all records, sorted by IATA code. The slice is the caller's.
func Airports() []Airport {
	airports, err := parse(strings.NewReader(airportsCSV))
	if err != nil {
		panic("data: airports.csv, which is part of the program, is broken: " + err.Error())
	}
	return airports
}

func parse(r io.Reader) ([]Airport, error) {
	reader := csv.NewReader(r)
	reader.FieldsPerRecord = 10
	reader.ReuseRecord = true
	if _, err := reader.Read(); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	var airports []Airport
	for {
		record, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return airports, nil
		}
		if err != nil {
			return nil, err
		}
		var numbers [3]float64
		for n, field := range record[6:9] {
			if numbers[n], err = strconv.ParseFloat(field, 64); err != nil {
				return nil, fmt.Errorf("airport %s: %w", record[0], err)
			}
		}
		airports = append(airports, Airport{
			IATA: record[0], ICAO: record[1], Name: record[2], City: record[3], Region: record[4], Country: record[5],
			Elevation: numbers[0], Latitude: numbers[1], Longitude: numbers[2], TimeZone: record[9],
		})
	}
}
