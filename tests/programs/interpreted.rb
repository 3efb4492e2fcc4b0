# Crashes in a C function below Ruby frames of all kinds; Ruby writes their backtrace to standard error ([BUG]).
require 'fiddle'

module Web
  class TopicController
    def self.handle(id)
      new.show(id)
    end

    def show(id)
      [id].each do |topic|
        render({ topic: topic }.to_s)
      end
    end

    def render(_json)
      raise 'x'
    rescue
      [3, 1].sort_by { |key|
        fault(key)
      }
    end

    def fault(key)
      # Longer than the part of the line table that has counts of its own.
      a = key + 1; b = a + 1; c = b + 1; d = c + 1; e = d + 1; f = e + 1; g = f + 1; h = g + 1; i = h + 1; j = i + 1
      a = j + 1; b = a + 1; c = b + 1; d = c + 1; e = d + 1; f = e + 1; g = f + 1; h = g + 1; i = h + 1; j = i + 1
      Fiddle::Pointer.new(8)[0]
    end
  end
end

def handle_request(id)
  Web::TopicController.handle(id)
end

if ARGV.include?('thread')
  Thread.new { handle_request(42) }.join
else
  1.times { handle_request(42) }
end
