module checkmap

go 1.19
