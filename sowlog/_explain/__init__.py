"""The origin of a NaN or an infinity: a function's equations, evaluated one by one."""
