//go:build race

package checkmap

const raceEnabled = true
