"""An objective in one file: absolute errors."""


class Absolute:
    def of_activation(self, x, reconstruction):
        return (x - reconstruction).abs().sum() / (x - x.mean(0)).abs().sum()

    def of_residual(self, residual, predicted):
        return (residual - predicted).abs().sum() / residual.abs().sum()
