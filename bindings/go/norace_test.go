//go:build !race

package checkmap

const raceEnabled = false
