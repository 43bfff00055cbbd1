"""Plot the results, the model and the data as plots/*.png."""

from image_pipeline.common.stage import run_stage


def main() -> None:
    # Here, not at the top: run_stage takes care of Ctrl-C and of errors first.
    from image_pipeline import numerics
    from image_pipeline.common import paths
    from image_pipeline.common.params import read_params

    params = read_params()
    numerics.pin("portable")

    # After the pin: this imports torch and numpy.
    from image_pipeline.plotting.report import draw_report

    drawn = draw_report(params.plot)
    print(f"plot: {len(drawn)} plots are in {paths.PLOTS}: {', '.join(drawn)}")


if __name__ == "__main__":
    run_stage(main, __doc__)
