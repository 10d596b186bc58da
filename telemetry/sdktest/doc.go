// Package sdktest checks with OpenTelemetry's own SDK what the telemetry package records: every name, unit, attribute and value.
// It is a module of its own so that nobody who uses the library has the SDK among the library's requirements.
package sdktest
