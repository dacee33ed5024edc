"""Options of the command `metrics-audit`."""

from .audit_settings import HELP, WITHOUT, MetricsAudit
from .options import Parser, add_recipe, add_resume, add_settings_file, add_shared


def add_metrics_audit(one: Parser) -> None:
    """metrics-audit."""
    add_shared(one, "metrics_audit", MetricsAudit, skip=WITHOUT, epilog=HELP)
    add_recipe(one, "finetune")
    add_settings_file(one)
    add_resume(one)


ADD = {"metrics-audit": add_metrics_audit}
